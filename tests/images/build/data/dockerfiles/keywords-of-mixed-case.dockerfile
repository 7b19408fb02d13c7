from busybox aS Tools
Run true
eNv A=b
workDIR /srv
OnBuild rUn make
healthCheck cmd true
