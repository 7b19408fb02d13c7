# built by hand
# escape=`
FROM busybox
RUN echo a `
