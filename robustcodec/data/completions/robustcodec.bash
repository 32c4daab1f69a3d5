# Made by scripts/command_line.py.
_robustcodec() {
    local word=${COMP_WORDS[COMP_CWORD]} command="" index words options
    for ((index = 1; index < COMP_CWORD; index++)); do
        case $command${COMP_WORDS[index]} in
            attack) command=attack ;;
            decode) command=decode ;;
            encode) command=encode ;;
            evaluate) command=evaluate ;;
            export) command=export ;;
            harden) command=harden ;;
            info) command=info ;;
            models) command=models ;;
            modelsadd) command=modelsadd ;;
            modelscontract) command=modelscontract ;;
            modelslist) command=modelslist ;;
            modelsremove) command=modelsremove ;;
            modelsverify) command=modelsverify ;;
            sample) command=sample ;;
            scan) command=scan ;;
            train) command=train ;;
        esac
    done
    case $command in
        '') words="attack decode encode evaluate export harden info models sample scan train" options="--version --install-completion --show-completion --help" ;;
        attack) words="" options="--output --target --free --method --steps --epsilon --quality --model --arch --variant --surrogate --seed --restarts --precision --device --save-all --json --threads --overwrite --recursive --quiet --help" ;;
        decode) words="" options="--output --format --quality --max-side --model --json --recursive --overwrite --threads --jobs --shard --max-pixels --max-memory --region --salvage --quiet --help" ;;
        encode) words="" options="--output --quality --target-bpp --target-size --target-psnr --model --arch --variant --psnr --effort --min-psnr --max-bpp --on-violation --guard-rungs --strip --strip-all --dry-run --json --recursive --overwrite --threads --jobs --shard --max-pixels --max-memory --quiet --verbose --help" ;;
        evaluate) words="" options="--output --data --models --arch --variant --attacks --steps --epsilon --restarts --seed --precision --surrogate --crop --quality --match --shard --reference --report --recheck --threads --quiet --help" ;;
        export) words="" options="--output --data --validation --id --variant --to --quality --restrain --no-restrain --quiet --help" ;;
        harden) words="" options="--data --output --validation --init --arch --variant --recipe --method --stage --epsilon --teacher-smooth --rate --smooth --hours --steps --seed --j-limit --measure --dry-run --quiet --help" ;;
        info) words="" options="--verbose --json --max-pixels --help" ;;
        models) words="add contract list remove verify" options="--help" ;;
        modelsadd) words="" options="--help" ;;
        modelscontract) words="" options="--data --most --threads --quiet --help" ;;
        modelslist) words="" options="--verbose --json --help" ;;
        modelsremove) words="" options="--help" ;;
        modelsverify) words="" options="--help" ;;
        sample) words="" options="--output --overwrite --quiet --help" ;;
        scan) words="" options="--quality --model --arch --variant --json --recursive --threads --jobs --max-pixels --max-memory --quiet --help" ;;
        train) words="" options="--output --data --validation --arch --channels --quality --qualities --start --init --hours --steps --recipe --print-recipe --quiet --help" ;;
    esac
    if [[ $word == -* ]]; then words=$options; fi
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}
complete -o default -o bashdefault -F _robustcodec robustcodec
