# Print as many rows as the first argument says.
n=0
while [ "$n" -lt "$1" ]; do
    n=$((n + 1))
    echo "row $n ${TARGET:+for $TARGET}${AGAIN:+once more}"
done
