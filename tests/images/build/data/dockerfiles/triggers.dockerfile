FROM busybox
ONBUILD COPY . /src
ONBUILD RUN cd /src && \
    make
onbuild  ENV A=b  C=d
ONBUILD ARG X=1
ONBUILD CMD ["a", "b"]
ONBUILD NONSENSE x
ONBUILD RUN echo ONBUILD onbuild twice
