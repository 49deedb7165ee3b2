# Programs started from a script, with the loader's work: $1 is the command that starts one.
i=0
while [ $i -lt 60 ]; do
	i=$($1/usr/bin/expr $i + 1)
	$1/usr/bin/basename /some/where/file$i .tmp | $1/bin/cat
done
