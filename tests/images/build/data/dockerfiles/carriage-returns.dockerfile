# one
FROM busybox
RUN echo one \
    two

ENV A=b
