FROM busybox
RUN ["sh", "-c", "echo $HOME"]
ENTRYPOINT [ "/bin/echo" , "a b" ]
CMD []
RUN   ["a", \
      "b\u00e9\n"]
