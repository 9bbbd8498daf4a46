# Shared by the scripts beside it; sourced, never run.
# shellcheck shell=bash

copy() { # ROOT FILE...: each with the libraries it asks for, at the paths it has here
    local into=$1 file library
    shift
    for file; do
        [[ -e $into$file ]] && continue
        install -D "$(readlink -f "$file")" "$into$file"
        libraries "$into" "$file"
    done
}

libraries() { # ROOT FILE: what a program asks for, without the program
    local library
    ldd "$2" 2>/dev/null | grep -o '/[^ ]*' | while read -r library; do
        library=${library%:}
        [[ -e $1$library || $library == "$2" ]] || install -D "$(readlink -f "$library")" "$1$library"
    done
}
