  FROM busybox
	WORKDIR	/srv
 	 USER   nobody   
