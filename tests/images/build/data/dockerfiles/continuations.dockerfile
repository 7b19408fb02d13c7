FROM busybox
RUN apk add \
    curl \
    jq\
less \  
 && true
RUN echo a\b \c
