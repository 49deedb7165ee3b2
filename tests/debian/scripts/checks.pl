use strict; use Digest::SHA qw(sha256_hex); use POSIX qw(floor);
print substr(sha256_hex("x" x 100000), 0, 16), "\n";
my %n; $n{$_ * 7919 % 1009}++ for 1 .. 50000;
print scalar(keys %n), " ", join(",", (sort { $n{$b} <=> $n{$a} || $a <=> $b } keys %n)[0 .. 4]), "\n";
my $s = join(" ", map { "w" . $_ * 31 % 97 } 1 .. 5000); my $c = () = $s =~ /w(\d)\1\b/g;
print "$c ", floor(1e6 * sin(12)), " ", 2 ** 0.5, "\n";
my $pid = open(my $f, "-|", "echo child; exit 2"); my $l = <$f>; close $f; print $l, $? >> 8, "\n";
print join(",", sort { $a <=> $b } map { $_ ** 2 % 101 } 1 .. 20), "\n";
