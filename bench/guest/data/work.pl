# Work for Perl, a part chosen by name, on a file of text.
use strict;
my ($part, $file) = @ARGV;
open(my $f, "<", $file) or die $file;
my ($n, %seen) = (0);
while (my $line = <$f>) {
	last if $. > 40000;
	if ($part eq "regex") {
		$n += length($2) if $line =~ /\b(def|class|return)\s+([A-Za-z_]\w*)/;
		$n++ while $line =~ /([a-z]+)_\1?/g;
		(my $copy = $line) =~ s/(\w+)\s*=\s*(\w+)/$2 = $1/;
		$n += ord($copy);
	} else {
		$seen{$_}++ for split(/\W+/, $line);
	}
}
if ($part eq "hashes") {
	my @top = sort { $seen{$b} <=> $seen{$a} or $a cmp $b } keys %seen;
	print "$_ $seen{$_}\n" for @top[0 .. 200];
}
print "$n\n";
