FROM golang:1.22 AS Build
RUN go build -o /app .

FROM build AS test
RUN go test ./...

FROM scratch
COPY --from=build /app /app
COPY --from=0 /a /b
COPY --from=busybox:1 /bin/sh /sh
