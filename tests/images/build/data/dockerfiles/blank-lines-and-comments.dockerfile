

# a comment
   # an indented one
	# behind a tab
FROM busybox

#last
  	
USER nobody
# the end
