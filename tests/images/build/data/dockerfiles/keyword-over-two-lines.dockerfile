FR\
OM busybox
RUN \
  true
WORK\
DIR /srv
