FROM busybox
RUN make \
    # first the tools
    tools \
# then the rest \
    all # not a comment
USER 1
