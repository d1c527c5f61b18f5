# send ID TURN <("INDEX SKIP BLOCKS REST NAME" data)...: writes BLOCKS blocks of 64 KiB and REST bytes into each file from block
# SKIP on, and says "k INDEX". Whoever was cut off before and still reads ends at its next file, since the turn is another's.
LC_ALL=C
export LC_ALL
umask 077
cd -- "$HOME" || die 'there is no home directory'
t=.vast-ssh-run/$1/sending
printf '%s\n' "$2" >"$t.$2" && mv -f "$t.$2" "$t" || die 'the directory of the run cannot be written'
while IFS=' ' read -r i skip blocks rest name; do
	read -r x <"$t"
	[ "$x" = "$2" ] || die 'another connection has taken over'
	dec "$name"
	[ "$skip" -gt 0 ] || : >"$n" || die 'a file cannot be written'
	[ "$blocks" -eq 0 ] ||
		dd of="$n" bs=65536 seek="$skip" count="$blocks" iflag=fullblock conv=notrunc 2>/dev/null ||
		die 'a file cannot be written; is the disk full?'
	[ "$rest" -eq 0 ] ||
		dd of="$n" ibs="$rest" obs=65536 seek=$((skip + blocks)) count=1 iflag=fullblock conv=notrunc 2>/dev/null ||
		die 'a file cannot be written; is the disk full?'
	printf 'k %s\n' "$i" || exit 1
done
printf 'end\n'
