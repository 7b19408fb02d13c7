FROM busybox
LABEL größe="日本語 ☃"
RUN echo "żółć" \
  🐍
COPY ñ/* /日本/
ENV Ä=é
