FROM busybox
ENV A one two  three
ENV B "quoted" # and more
ENV C	a=b
LABEL d e f
