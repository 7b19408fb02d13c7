FROM busybox
COPY ["a b", "c", "/d e/"]
ADD --chown=1 ["x y", "/"]
COPY --chmod=644 [ "a", \
  "b" ]
