# sizes <"INDEX PART NAME"...: "INDEX SIZE" of each part that there is, or "INDEX 0"; "INDEX dir" if NAME is a directory.
LC_ALL=C
export LC_ALL
cd -- "$HOME" || die 'there is no home directory'
while IFS=' ' read -r i part name; do
	dec "$name"
	x=0
	if [ -d "$n" ]; then
		x=dir
	else
		dec "$part"
		[ ! -f "$n" ] || x=$(stat -c %s -- "$n" 2>/dev/null) || x=0
	fi
	printf '%s %s\n' "$i" "$x" || exit 1
done
printf 'end\n'
