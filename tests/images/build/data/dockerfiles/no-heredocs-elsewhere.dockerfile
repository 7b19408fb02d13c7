FROM busybox
ENV A=<<EOF
LABEL b="<<EOF"
CMD cat <<EOF
ENTRYPOINT cat <<EOF
COPY ["<<EOF", "/x"]
