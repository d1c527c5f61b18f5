# hash <"INDEX NAME"...: "INDEX SHA256" of each file, or "INDEX -".
LC_ALL=C
export LC_ALL
cd -- "$HOME" || die 'there is no home directory'
while IFS=' ' read -r i name; do
	dec "$name"
	x=-
	[ ! -f "$n" ] || x=$(sha <"$n" 2>/dev/null) || x=-
	printf '%s %s\n' "$i" "${x%% *}" || exit 1
done
printf 'end\n'
