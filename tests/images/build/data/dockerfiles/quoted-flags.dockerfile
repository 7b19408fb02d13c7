FROM busybox
RUN --mount="type=cache,target=/a b" --network='none' make
RUN --mount=type=bind,target=/a\ b make
COPY --chown="a b" --chmod=7\55 x y
