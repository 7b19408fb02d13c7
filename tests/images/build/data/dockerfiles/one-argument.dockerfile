FROM busybox
USER app:staff
USER $U:${G:-1}
WORKDIR /srv/my app
WORKDIR ..
STOPSIGNAL SIGRTMIN+3
STOPSIGNAL 9
MAINTAINER A B <a@example.test>
