# Words counted, and the longest line.
{
	if (NR > 40000)
		exit
	for (i = 1; i <= NF; i++)
		n[$i]++
	if (length($0) > longest)
		longest = length($0)
}
END {
	for (w in n)
		if (n[w] > most) {
			most = n[w]
			word = w
		}
	print NR, longest, most, word
}
