FROM büro/größe AS naïve
