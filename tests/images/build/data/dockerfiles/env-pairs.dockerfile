FROM busybox
ENV A=1 B="two words" C=three\ words D='$A'
ENV E= F=x=y G="a\"b"
ENV H=$A${B:-c} \
    I=2 \
    # about J
    J=3
