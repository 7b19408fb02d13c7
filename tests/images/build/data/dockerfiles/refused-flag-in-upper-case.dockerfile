FROM busybox
coPY --FROM=x a b
