# escape=`
FROM busybox
RUN dir `
  c:\
