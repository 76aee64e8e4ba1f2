# What is installed, and Debian's package of it: cmake --build build/release --target lstm-server lstm-client lstm-model, then
#   (cd build/release && cpack -G DEB)
# Nothing here is done in a build: neither install nor cpack begins one, so the three binaries must be there.
set(CMAKE_SKIP_INSTALL_ALL_DEPENDENCY ON)
include(GNUInstallDirs)
set(doc ${CMAKE_INSTALL_DATAROOTDIR}/doc/lstm-server)
install(TARGETS lstm-server lstm-client lstm-model RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(DIRECTORY models/repository/ DESTINATION ${CMAKE_INSTALL_DATAROOTDIR}/lstm-server/models)
install(FILES packaging/lstm-server.service DESTINATION lib/systemd/system)
install(FILES packaging/config.textproto DESTINATION /etc/lstm-server)
install(FILES README.md CHANGELOG.md docs/operations.md docs/protocol.md docs/open_inference.md docs/models.md docs/model_format.md
              docker/prometheus/alerts.yaml docker/grafana/lstm-server.json DESTINATION ${doc})
install(FILES LICENSE DESTINATION ${doc} RENAME copyright)
# Debian wants a changelog of the package in a form of its own.
set(LSTM_MAINTAINER "lstm-server's authors <lstm-server@localhost>" CACHE STRING "Who maintains the package: NAME <MAIL>")
string(TIMESTAMP now "%a, %d %b %Y %H:%M:%S +0000" UTC)
file(WRITE ${CMAKE_BINARY_DIR}/packaging/changelog "lstm-server (${PROJECT_VERSION}) unstable; urgency=medium\n\n  * What is new: CHANGELOG.md.\n\n -- ${LSTM_MAINTAINER}  ${now}\n")
file(ARCHIVE_CREATE OUTPUT ${CMAKE_BINARY_DIR}/packaging/changelog.gz PATHS ${CMAKE_BINARY_DIR}/packaging/changelog FORMAT raw COMPRESSION GZip COMPRESSION_LEVEL 9)
install(FILES ${CMAKE_BINARY_DIR}/packaging/changelog.gz DESTINATION ${doc})

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME lstm-server)
set(CPACK_PACKAGE_VENDOR "The lstm-server authors")
set(CPACK_PACKAGE_CONTACT ${LSTM_MAINTAINER})
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "server for recurrent networks, streaming over gRPC")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
set(CPACK_DEBIAN_FILE_NAME lstm-server.deb)
set(CPACK_DEBIAN_PACKAGE_SECTION net)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_DESCRIPTION
"Loads trained LSTM, GRU and RNN weights and streams a prediction for every
step over gRPC, keeping the hidden and cell state of every client's session,
through restarts of the server too. Speaks the Open Inference Protocol as
well. With a client for the terminal, a tool for models, and sample models.")
set(CPACK_DEBIAN_PACKAGE_CONTROL_EXTRA ${CMAKE_SOURCE_DIR}/packaging/conffiles ${CMAKE_SOURCE_DIR}/packaging/postinst
  ${CMAKE_SOURCE_DIR}/packaging/prerm ${CMAKE_SOURCE_DIR}/packaging/postrm)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
include(CPack)
