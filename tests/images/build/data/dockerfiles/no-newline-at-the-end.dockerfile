FROM busybox
CMD ["true"]