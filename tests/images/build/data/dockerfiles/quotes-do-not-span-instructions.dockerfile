FROM busybox
RUN echo "open
RUN echo 'too
COPY "a b" c
ENV A="x\
y"
