# links <"INDEX NAME"...: "INDEX KIND" of each symbolic link and its text, which ends in NUL. KIND is f or d for a file or a
# directory to which it leads, and - for all else. Where the text cannot be read, there is none.
LC_ALL=C
export LC_ALL
cd -- "$HOME" || die 'there is no home directory'
while IFS=' ' read -r i name; do
	dec "$name"
	x=-
	[ ! -f "$n" ] || x=f
	[ ! -d "$n" ] || x=d
	printf '%s %s\n' "$i" "$x" || exit 1
	[ ! -h "$n" ] || readlink -n -- "$n" 2>/dev/null
	printf '\0'
done
printf 'end\n'
