FROM busybox
RUN one \

  && two \


  && three
RUN four
