FROM busybox
COPY --chmod=600 <<first.conf local.txt <<-"second.conf" /etc/
key=$value
first.conf
	quoted=$value
  kept
	second.conf
ADD <<x /x
x 
x
