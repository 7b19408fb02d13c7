FROM busybox
ONBUILD RUN <<EOF
make
EOF
ONBUILD COPY <<-a /a
	x
a
CMD true
