FROM busybox
RUN --network=none true
RUN --network=host --security=insecure true
RUN --security=sandbox --network=default ["true"]
RUN --device=vendor.test/gpu=all,required --device=name=b true
RUN -- --network=none
RUN true --network=none
