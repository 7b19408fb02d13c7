FROM busybox
RUN ['a', 'b']
CMD ["a", ]
ENTRYPOINT ["a"] b
RUN [ -d /x ] && true
VOLUME [/x
