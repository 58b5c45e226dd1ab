-- A virus scanner, which needs ClamAV's database on the machine.
SELECT NOT so_is_infected('heron');
