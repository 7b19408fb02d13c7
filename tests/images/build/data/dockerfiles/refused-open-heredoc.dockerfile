FROM busybox
RUN true
RUN <<EOF
make
 EOF
