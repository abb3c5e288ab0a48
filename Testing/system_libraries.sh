#!/usr/bin/env bash
# The few system libraries that vtk and Qt want on a bare Debian or Ubuntu: install them when we may, else say which.
set -u
packages=(libgl1 libegl1 libxrender1 libxkbcommon0 libdbus-1-3 libfontconfig1)
command -v dpkg-query >/dev/null || exit 0
missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q "ok installed" || missing+=("$package")
done
[ "${#missing[@]}" -eq 0 ] && exit 0
if [ "$(id -u)" -eq 0 ]; then
  (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}") >/dev/null 2>&1 && exit 0
fi
echo "For scene.mrb and the scene tests please install: sudo apt-get install ${missing[*]}"
exit 0
