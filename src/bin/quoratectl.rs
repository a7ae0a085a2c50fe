fn main() -> std::process::ExitCode {
    quorate::cli::ctl::run(std::env::args_os()).finish()
}
