source (dirname (status filename))/hakuriver.fish
