FROM busybox
RUN echo a#b # c
ENV A=#x B="#"
WORKDIR /a#b
