FROM busybox
RUN <<EOF
set -e
# stays
echo "$HOME" \
  more

EOF
USER 1
