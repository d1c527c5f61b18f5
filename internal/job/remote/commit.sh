# commit <"INDEX MODE PART NAME"...: gives each part its mode and its name, and says "k INDEX".
cd -- "$HOME" || die 'there is no home directory'
while IFS=' ' read -r i mode part name; do
	dec "$part"
	p=$n
	dec "$name"
	[ ! -d "$n" ] || die 'a directory stands where a file goes'
	if [ -f "$p" ]; then
		chmod "$mode" "$p" && mv -f "$p" "$n" || die 'a file cannot be given its name'
	fi
	[ -f "$n" ] || die 'a file is gone'
	printf 'k %s\n' "$i" || exit 1
done
printf 'end\n'
