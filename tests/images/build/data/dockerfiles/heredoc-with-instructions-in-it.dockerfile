FROM busybox
COPY <<Dockerfile /out/
FROM scratch
RUN <<EOF
nested
EOF
Dockerfile
CMD ["cat", "/out/Dockerfile"]
