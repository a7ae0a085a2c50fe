fn main() -> std::process::ExitCode {
    quorate::cli::utl::run(std::env::args_os()).finish()
}
