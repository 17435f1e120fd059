//! nginx with nchan, where it is installed.

use std::io;
use std::process::{Command, Stdio};

use super::{Dialect, Server, free_address, is_installed, until_it_listens};
use crate::process::Process;

/// Where Debian puts it.
const MODULE: &str = "/usr/lib/nginx/modules/ngx_nchan_module.so";

impl Server {
    /// Starts nginx with nchan on a processor.
    ///
    /// `None` if it is not installed.
    pub(crate) fn nchan(core: usize) -> io::Result<Option<Self>> {
        if !is_installed("nginx") || !std::fs::exists(MODULE)? {
            return Ok(None);
        }
        let directory = tempfile::tempdir()?;
        let place = directory.path().display();
        let address = free_address()?;
        let config = format!(
            "load_module {MODULE};\ndaemon off;\nworker_processes 1;\nworker_rlimit_nofile 20000;\n\
             pid {place}/pid;\nerror_log {place}/error.log crit;\n\
             events {{ worker_connections 40000; }}\n\
             http {{\naccess_log off;\nkeepalive_requests 1000000000;\nkeepalive_timeout 1h;\nclient_header_timeout 1h;\n\
             nchan_shared_memory_size 256M;\n\
             client_body_temp_path {place}/body;\nproxy_temp_path {place}/proxy;\n\
             fastcgi_temp_path {place}/fastcgi;\nuwsgi_temp_path {place}/uwsgi;\nscgi_temp_path {place}/scgi;\n\
             server {{\nlisten {address} backlog=16384;\n\
             location ~ ^/publish/(\\w+)$ {{ nchan_publisher http; nchan_channel_id $1; nchan_message_buffer_length 200; }}\n\
             location ~ ^/(stream|socket)/(\\w+)$ {{ nchan_subscriber; nchan_channel_id $2; nchan_subscriber_first_message newest; nchan_message_buffer_length 200; }}\n\
             }}\n}}\n"
        );
        let file = directory.path().join("nginx.conf");
        std::fs::write(&file, config)?;
        let mut command = Command::new("nginx");
        command
            .arg("-p")
            .arg(directory.path())
            .arg("-c")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::inherit());
        let mut process = Process::start(&mut command, &[core])?;
        until_it_listens("nginx", address, &mut process)?;
        Ok(Some(Self {
            clients: address,
            publish: address,
            dialect: Dialect::Nchan,
            processes: vec![process],
            _directory: Some(directory),
        }))
    }
}
