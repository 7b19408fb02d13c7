FROM busybox
RUN --mount=type=cache,target=/root/.cache,sharing=locked --mount=type=bind,source=.,target=/src make
RUN --mount=type=secret,id=token,env=TOKEN --mount=type=ssh \
    --mount=type=tmpfs,target=/t <<EOF
fetch
EOF
RUN --mount=from=build,target=/b "--mount=type=cache,target=/a b" ls
