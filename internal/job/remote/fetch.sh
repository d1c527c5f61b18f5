# fetch <"INDEX SKIP COUNT NAME"...: sends COUNT blocks of 64 KiB of each file from block SKIP on, between "b INDEX" and
# "e INDEX STATUS". "x INDEX" stands for a file that is none.
LC_ALL=C
export LC_ALL
cd -- "$HOME" || die 'there is no home directory'
while IFS=' ' read -r i skip count name; do
	dec "$name"
	if [ -f "$n" ] && [ -r "$n" ]; then
		printf 'b %s\n' "$i" || exit 1
		dd if="$n" bs=65536 skip="$skip" count="$count" 2>/dev/null </dev/null
		printf 'e %s %s\n' "$i" "$?" || exit 1
	else
		printf 'x %s\n' "$i" || exit 1
	fi
done
printf 'end\n'
