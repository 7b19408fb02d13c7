FROM busybox
VOLUME /a /b
VOLUME ["/c d", "/e"]
VOLUME $V
EXPOSE 80 443/tcp 53/udp
EXPOSE 8000-8010 ${PORT}
