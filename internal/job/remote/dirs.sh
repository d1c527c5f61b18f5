# dirs <NAME...: makes the directories.
cd -- "$HOME" || die 'there is no home directory'
while IFS=' ' read -r name; do
	dec "$name"
	mkdir -p -- "$n" && [ -d "$n" ] || die 'a directory cannot be made'
done
printf 'end\n'
