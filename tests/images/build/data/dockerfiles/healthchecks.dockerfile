FROM a
HEALTHCHECK --interval=1m30s --timeout=10s --start-period=0s --start-interval=500ms --retries=5 \
  CMD curl -f http://localhost/ || exit 1
FROM b
HEALTHCHECK CMD ["/bin/check", "--all"]
FROM c
HEALTHCHECK NONE
FROM d
HEALTHCHECK   cmd   true
